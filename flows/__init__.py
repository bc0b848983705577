"""One flow a file: typed parameters in, tasks composed, a result out. Names nothing but tasks and parameters."""
