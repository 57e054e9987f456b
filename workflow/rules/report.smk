# The HTML report: figures and tables with captions, and how each was made.


rule report:
    input:
        rules.all_figures.input,
        rules.all_tables.input,
        rules.claims.input,
    output:
        html=f"{RESULTS}/report.html",
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{BENCHMARKS}/report.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    script:
        "../scripts/report.py"
