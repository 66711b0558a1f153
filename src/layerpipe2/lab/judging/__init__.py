"""What runs are worth, in one place for the report, for the tuner and for MLflow.

`report` has the demands, `objectives` chooses the best trial, `history_costs` says where a history is needed and what
each strategy wins back, by the paired `comparisons` of `statistics`; `designs` says which runs belong together.
"""
