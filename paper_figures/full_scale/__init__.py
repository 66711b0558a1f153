"""Tables, figures and one page of verdicts from the records of a campaign (experiments/full_scale)."""
