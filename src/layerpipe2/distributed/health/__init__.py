"""The processes of a pipeline: starting them, seeing that they agree, watching over them, ending them all."""
