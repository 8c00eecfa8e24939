"""Look at samples as the model will see them: an HTML page of packed rows, and counts (`python -m datasets.show`).

Everything on the page is read back from the `Batch` tensors that the loader gives to training, and held against the tokens
(checks.py); only which sample a token came from is carried beside them (trace.py).
"""
