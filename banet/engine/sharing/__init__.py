"""Work of one command shared out over processes and machines, which talk to each other by files alone."""
