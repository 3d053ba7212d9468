"""R4 search evaluated naively over resources in memory: a second opinion that shares nothing with the index."""
