"""Export of the network to graphs, and the runtimes that execute them."""
