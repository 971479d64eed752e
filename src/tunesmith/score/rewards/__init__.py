"""What an answer is worth, as a recipe says it: what reinforcement learning learns from."""
