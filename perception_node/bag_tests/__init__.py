"""Bags as tests: many recordings replayed at once, their results compared with golden ones, their times with budgets.

run.py does one bag, parallel.py and cluster.py many; checks.py says what is asked of them. golden.py compares a bag of
results with another, frame by frame, and differences.py message by message; rates.py finds what rate a machine keeps up
with. command.py is `perception replay`, pytest_plugin.py the fixture of the same name.
"""
