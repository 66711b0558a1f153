"""The health of a pipeline's processes: do they agree, are they alive, are their values finite; all end if not."""
