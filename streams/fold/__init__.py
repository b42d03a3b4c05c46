"""Pure: two logs, two folds. One fact in, the next state and the outputs out."""
