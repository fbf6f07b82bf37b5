"""From taught examples to masks: `Segmenter`, and what one image needs on the way."""
