"""What is trained, on its device: masters, averages, 8-bit moments, parts of weights, and the ranks that share them."""
