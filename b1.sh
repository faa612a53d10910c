. /tmp/env5.sh
W=2.5 python /tmp/s19/occ.py /tmp/s19/b_k 850000 250 occlusion /tmp/s19/kw > /tmp/s19/occ_kw.log 2>&1
W=0 python /tmp/s19/occ.py /tmp/s19/b_k 850100 150 occlusion /tmp/s19/k > /tmp/s19/occ_k2.log 2>&1
W=0 python /tmp/s19/occ.py bundles/manipulation 850100 150 occlusion /tmp/s19/f > /tmp/s19/occ2.log 2>&1
