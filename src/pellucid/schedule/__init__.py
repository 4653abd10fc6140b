"""The scheduler: many callers share the forward passes of one model.

Load, other requests and memory may change how fast an answer comes, never what it is.
"""
