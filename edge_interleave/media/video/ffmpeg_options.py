"""FFmpeg options that restrict what it may open.

A playlist inside a "video" can make FFmpeg open other files and addresses. So files are restricted to the protocol
`file`, streams to network protocols, and both to containers that hold their own frames: no playlists, no file name
patterns.
"""

from __future__ import annotations

CONTAINERS = "mov,matroska,avi,flv,asf,ogg,mpeg,mpegts,mpegvideo,h264,hevc,ivf,mjpeg"
FILE_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
HTTP_OPTIONS = {"protocol_whitelist": "http,https,tcp,tls", "format_whitelist": CONTAINERS}
RTSP_OPTIONS = {
    "protocol_whitelist": "rtsp,rtsps,rtp,srtp,udp,tcp,tls",
    "format_whitelist": "rtsp",
    "rtsp_flags": "prefer_tcp",
}
