"""Reads a source's records from files and hubs, one at a time.

files: which files a path names, and how they are opened
formats: the forms of JSON files
records: records of every format, each with its place
"""
