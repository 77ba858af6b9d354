"""What should happen, as pure code: policy documents, prices and the rules the scheduler asks.

Nothing here opens a file, reads a clock or draws a number; shells pass text and instants in.
"""
