"""A hub on loopback that repositories are made in, pushed to and fetched from: what huggingface_hub's client calls."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote

from loopback import LoopbackServer

TOKEN = "hf_" + "s" * 34
MODELS, DATASETS = "models", "datasets"


def blob_id(data):
    """Return git's id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub(LoopbackServer):
    """`repositories` {(kind, name): {branch: {file: bytes}}}.

    lfs (dict): uploaded large files by SHA-256; sent (list): every body that came, as (path, bytes).
    refuse ((method, pattern, status) or None): the answer to requests that match.
    held (Event or None): large files wait for it.
    corrupt (set): names of files that are sent with one byte changed; private (set): made private.
    """

    def __init__(self):
        super().__init__(Handler)
        self.repositories, self.lfs, self.sent, self.private, self.corrupt = {}, {}, [], set(), set()
        self.refuse, self.held, self.requests, self.commits = None, None, [], 0

    def files(self, name, kind=MODELS, branch="main"):
        return self.repositories[kind, name][branch]

    def put(self, name, files):
        """Place files in a model repository."""
        self.repositories.setdefault((MODELS, name), {"main": {}})["main"].update(files)

    def commit_id(self, files):
        about = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in files.items())
        return hashlib.sha1(json.dumps(about).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, value=None, status=200, headers=None, data=None):
        data = json.dumps(value).encode() if data is None else data
        self.send_response(status)
        for key, text in {"Content-Length": len(data), "Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, str(text))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_any(self):
        hub, path = self.server, unquote(self.path.partition("?")[0])
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.requests.append((self.command, path))
        if body:
            hub.sent.append((path, body))
        if hub.refuse and hub.refuse[0] == self.command and re.search(hub.refuse[1], path):
            return self.answer({"error": "refused"}, hub.refuse[2])
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self.command == "POST" and not known:
            return self.answer({"error": "Invalid username or password."}, 401)
        for pattern, method in ROUTES.items():
            found = re.fullmatch(pattern, path)
            if found:
                return getattr(self, method)(body, *found.groups())
        return self.answer({"error": f"no such page {path}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = do_any

    def repository(self, kind, name, revision="main"):
        """Return the files of a revision, or None after an answer that there are none."""
        branches = self.server.repositories.get((kind, name))
        if branches is None:
            return self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        commits = {self.server.commit_id(files): files for files in branches.values()}
        files = branches.get(revision, commits.get(revision))
        if files is None:
            return self.answer({"error": "Revision not found"}, 404, {"X-Error-Code": "RevisionNotFound"})
        return files

    def create(self, body):
        asked = json.loads(body)
        key = (f"{asked['type']}s", f"{asked['organization']}/{asked['name']}")
        if key in self.server.repositories:
            return self.answer({"error": "exists", "url": f"{self.server.url}/{key[1]}"}, 409)
        self.server.repositories[key] = {"main": {}}
        if asked.get("visibility") == "private":
            self.server.private.add(key[1])
        return self.answer({"url": f"{self.server.url}/{key[1]}", "id": key[1]})

    def valid(self, body):
        return self.answer({"errors": [], "warnings": []})

    def branch(self, body, kind, name, branch):
        branches = self.server.repositories[kind, name]
        if branch in branches:
            return self.answer({"error": "exists"}, 409)
        branches[branch] = dict(branches["main"])
        return self.answer({})

    def info(self, body, kind, name, revision="main"):
        files = self.repository(kind, name, revision)
        if files is not None:
            siblings = [{"rfilename": name} for name in files]
            self.answer({"id": name, "sha": self.server.commit_id(files), "siblings": siblings})

    def tree(self, body, kind, name, revision):
        files = self.repository(kind, name, revision)
        if files is not None:
            self.answer([{"type": "file", "path": n, "size": len(d), "oid": blob_id(d)} for n, d in files.items()])

    def resolve(self, body, name, revision, file):
        files = self.repository(MODELS, name, revision)
        if files is None:
            return None
        if file not in files:
            return self.answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        data = files[file]
        headers = {"X-Repo-Commit": self.server.commit_id(files), "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        if file in self.server.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        return self.answer(headers=headers, data=data)

    def preupload(self, body, kind, name, revision):
        files = self.repository(kind, name, revision)
        if files is None:
            return None
        found = []
        for file in json.loads(body)["files"]:
            large, own = file["path"].endswith(".safetensors"), files.get(file["path"])
            oid = None if own is None else hashlib.sha256(own).hexdigest() if large else blob_id(own)
            mode = "lfs" if large else "regular"
            found.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return self.answer({"files": found})

    def batch(self, body, name):
        objects = []
        for asked in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.server.url}/lfs/{asked['oid']}"}}
            objects.append({**asked, **({} if asked["oid"] in self.server.lfs else {"actions": upload})})
        return self.answer({"transfer": "basic", "objects": objects})

    def large(self, body, oid):
        if self.server.held is not None:
            self.server.held.wait(60)
            return None
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.lfs[oid] = body
        return self.answer({})

    def commit(self, body, kind, name, revision):
        files = self.repository(kind, name, revision)
        if files is None:
            return None
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.lfs[value["oid"]]
        self.server.commits += 1
        oid = self.server.commit_id(files)
        return self.answer({"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = {
    "/api/repos/create": "create",
    "/api/validate-yaml": "valid",
    rf"/api/(models|datasets)/{NAME}": "info",
    rf"/api/(models|datasets)/{NAME}/revision/(.+)": "info",
    rf"/api/(models|datasets)/{NAME}/tree/([^/]+)/?": "tree",
    rf"/api/(models|datasets)/{NAME}/branch/(.+)": "branch",
    rf"/api/(models|datasets)/{NAME}/preupload/(.+)": "preupload",
    rf"/api/(models|datasets)/{NAME}/commit/(.+)": "commit",
    rf"/(?:datasets/)?{NAME}\.git/info/lfs/objects/batch": "batch",
    r"/lfs/([0-9a-f]{64})": "large",
    rf"/{NAME}/resolve/([^/]+)/(.+)": "resolve",
}
