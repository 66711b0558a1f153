"""The commands of the study, and what the others can with its networks; pydantic makes their options."""
