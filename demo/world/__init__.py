"""The demo's second world: still lifes of two or three solids with relations, textures, materials and styles.

It is made beside the first one and will take its place when its networks are trained; nothing else uses it yet.
"""
