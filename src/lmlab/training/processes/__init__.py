"""The processes that train one run: who starts them, how they wait, and how they stop."""
