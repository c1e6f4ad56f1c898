"""One module per foreign thing; the only importers of the libraries that reach outside."""
