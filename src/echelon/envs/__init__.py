"""Tasks: Gymnasium environments whose observations and goals are images."""
