"""Credentials, models, judges and the files of an experiment."""
