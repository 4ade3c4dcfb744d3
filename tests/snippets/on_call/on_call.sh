# Which events failed since yesterday, and why?
postbell list --status failed --since 1d

# The template was wrong, and is correct by now: which events would go out again? Then send them.
postbell replay --status failed --since 1d --error-class template --dry-run
postbell replay --status failed --since 1d --error-class template --as li.lei

# Who did what, and how are things now?
postbell audit --since 1h
postbell stats
