"""The composition root of the worker: both folds in a Faust app, and beside it, in the same loop, the scheduler, the submitter and
the caller.
"""



