"""Figures of what the other rooms return: each function takes arrays and gives a `matplotlib.figure.Figure`.

No pyplot state and no global settings are touched; `style.figure_to_data_uri` puts a figure into a page.
"""
