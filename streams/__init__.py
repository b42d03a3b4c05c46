"""The stream processor: pure folds and policies, the Faust shell around them, and the workers that talk to OpenAI."""
