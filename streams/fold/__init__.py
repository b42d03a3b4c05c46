"""The two folds, of jobs and of responses: a state and one fact in, the next state and outputs out. Pure."""
