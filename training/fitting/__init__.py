"""How a model is fitted: recipe, steps, checkpoints, several processes, evaluation."""
