"""An admission webhook: adds a key to ConfigMaps, refuses those named "bad", and connections to pods.

    webhook.py CERTIFICATE KEY    tells its port on a line, then answers until it is ended
"""

import base64
import http.server
import json
import ssl
import sys


def answer(request):
    if request["operation"] == "CONNECT":
        return {"allowed": False, "status": {"message": "no connections", "code": 403}}
    if request["name"] == "bad":
        return {"allowed": False, "status": {"message": "a bad name", "code": 403, "reason": "Forbidden"}}
    if request["operation"] == "DELETE":
        return {"allowed": True, "warnings": ["it is gone"]}
    patch = [{"op": "add", "path": "/data/by", "value": request["userInfo"]["username"]}]
    return {
        "allowed": True,
        "patchType": "JSONPatch",
        "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
    }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["content-length"])))
        response = answer(review["request"]) | {"uid": review["request"]["uid"]}
        body = json.dumps({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response})
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
