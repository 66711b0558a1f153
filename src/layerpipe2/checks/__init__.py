"""Does this machine train as the definition says? What ``layerpipe2 check`` runs, on CPU, GPUs and their links."""
