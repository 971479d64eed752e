"""One loop, many objectives."""
