"""Requests that arrive one after another: what is kept of them, what each has to show, and a record of it all."""
