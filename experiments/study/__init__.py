"""The study of params.yaml: its runs, the processes that train them, tables of their records, copies in MLflow."""
