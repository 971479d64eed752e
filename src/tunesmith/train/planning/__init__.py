"""What is decided before anything is learned: the plan, the estimates and checks behind it, and what it switches on."""
