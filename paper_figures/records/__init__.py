"""Result tables, checked when they are read: of training runs, of the theory, of tuned experiments, of real pipelines.

Units: accuracies are fractions in [0, 1], losses are mean cross-entropy in nats, delays are optimizer updates,
``history_copies`` counts copies of the model's parameters beside the latest ones.
"""
