"""Files to raw rows: containers, encodings, tables. What a row means is the business of `formats`."""
