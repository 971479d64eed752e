"""What "good" means, defined once: the same functions serve as metric, reward and online signal."""
