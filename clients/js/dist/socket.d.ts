import type { Host, Link } from './link.js';
export declare function socketLink(host: Host, url: URL, token: string | undefined): Link;
