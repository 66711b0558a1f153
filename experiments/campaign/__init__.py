"""A campaign: many runs of one experiment in one folder, which any number of processes and machines may share.

The unit of work is one run, and its result is one record file, written whole or not at all. A run whose record is there
is finished and never done again; a run that is being done has a lock file beside it. So a campaign can be stopped at
any point and started again, anywhere the folder is visible.
"""
