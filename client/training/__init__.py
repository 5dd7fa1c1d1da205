"""How a site trains: one loop for every model, task and strategy."""

from client.training.loop import ModelData, Position, TrainingData, TrainingResult, predict, train

__all__ = ["ModelData", "Position", "TrainingData", "TrainingResult", "predict", "train"]
