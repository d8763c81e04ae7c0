"""Earwitness online: the HTTP service and its command line. Imports `models`, never `training`."""
