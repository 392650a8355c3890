"""One TOML file a board: what it can do, with the source of every figure. `midstream.profiles` reads them."""
