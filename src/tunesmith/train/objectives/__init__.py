"""What is learned: each objective says where its batches come from and what its loss terms are."""
