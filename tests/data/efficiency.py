#!/usr/bin/env python3
"""The efficiency of an image by dive's definition (docs/cli.md), from the headers of its archives alone.

Written for the tests, and beside the program: it reads a docker archive (docker save), knows no store and no overlay,
and keeps a tree of dictionaries for each layer, as dive does.

    efficiency.py ARCHIVE        prints the minimal and the discovered bytes
"""
import json
import sys
import tarfile

WHITEOUT = ".wh."
OPAQUE = ".wh..wh.."


class Node:
    def __init__(self):
        self.children, self.size, self.is_dir = {}, 0, False

    def add(self, path):
        node = self
        for name in path:
            if name.startswith(OPAQUE):
                return None
            node = node.children.setdefault(name, Node())
        return node

    def total(self):
        return self.size + sum(child.total() for child in self.children.values())

    def leaves(self, path=()):
        for name, child in self.children.items():
            if child.children:
                yield from child.leaves(path + (name,))
            else:
                yield path + (name,), child

    def every(self, path=()):
        """Children before their parents."""
        for name, child in self.children.items():
            yield from child.every(path + (name,))
            yield path + (name,), child


def parts(name):
    return tuple(part for part in name.split("/") if part not in ("", "."))


def layer(archive):
    tree = Node()
    for member in archive:
        path = parts(member.name)
        node = tree.add(path) if path else None
        if node:
            node.size = member.size if member.isreg() else 0
            node.is_dir = member.isdir()
    return tree


def lay(stack, tree):
    """Puts a layer over the layers below."""
    for path, node in tree.every():
        if path[-1].startswith(WHITEOUT):
            parent = stack
            for name in path[:-1]:
                parent = parent.children.get(name, Node())
            parent.children.pop(path[-1][len(WHITEOUT):], None)
        else:
            below = stack.add(path)
            below.size, below.is_dir = node.size, node.is_dir


def find(stack, path):
    node = stack
    for name in path:
        node = node.children.get(name)
        if node is None:
            return None
    return node


def main():
    with tarfile.open(sys.argv[1]) as image:
        manifest = json.load(image.extractfile("manifest.json"))[0]
        trees = []
        for name in manifest["Layers"]:
            with tarfile.open(fileobj=image.extractfile(name), errorlevel=0) as archive:
                trees.append(layer(archive))
    stack, sizes = Node(), {}
    for tree in trees:
        for path, node in tree.leaves():
            size = node.size
            if path[-1].startswith(WHITEOUT):
                path = path[:-1] + (path[-1][len(WHITEOUT):],)
                gone = find(stack, path)
                size = gone.total() if gone and gone.is_dir else 0
            sizes.setdefault(path, []).append(size)
        lay(stack, tree)
    print(sum(min(of) for of in sizes.values()), sum(sum(of) for of in sizes.values()))


main()
