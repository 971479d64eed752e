"""Raw rows to what they teach: the formats that people have, found by their keys."""
