// What users of the package see.
export { Fanwire, isGap } from './client.js';
export { Subscription } from './subscription.js';
export { pattern } from './filter.js';
export { FanwireError } from './types.js';
