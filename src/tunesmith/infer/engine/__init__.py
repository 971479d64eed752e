"""The inside of `local`: one running batch over a network of slots, its adapters, its graphs, and what drives it."""
