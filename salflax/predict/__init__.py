"""From an image and a sentence to a saliency map."""

from salflax.predict.predictor import Predictor as Predictor
