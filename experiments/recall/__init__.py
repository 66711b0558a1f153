"""Which weights a backward pass should read, and when: strategies that answer a question and are no methods."""
