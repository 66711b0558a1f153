"""What a server of processes imports first: from then on the kernel ends it when its starter ends."""

from layerpipe2.lab.runs.lifetime import end_with_parent

end_with_parent()
