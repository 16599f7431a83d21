"""How good the predictions are: each row is predicted before it is learned."""
